"""Given names that many people have, in lower case; written down from memory, not taken from a list of anybody's."""

from __future__ import annotations

from typing import Final

_NAMES = """
aaron abdul abigail ada adam adele adrian adriana agnes agnieszka ahmed aiden aino aisha alain alan albert alberto
alejandra alejandro alessandra alessandro alessia alex alexander alexandra alexandre alexis alfred alfredo ali alice
alicia alina alison allison alvaro amanda amelia amina amir amy ana anastasia anders andre andrea andreas andrei
andrej andres andrew andré andrés angela angelica angelo angie anika anita anja anke ann anna anne annette annie
anthony antoine anton antonia antonio anya arjun armando arnaud arnold arthur arturo ashley astrid audrey aurelie ava
axel aylin ayse barbara barry bart beata beatrice beatriz becky ben benedikt benjamin benoit bernard bernd bernhard
bertrand beth bettina betty bianca birgit bjorn björn bjørn bogdan boris brad bradley brenda brendan brian brigitte
britta bruce bruno bryan caleb cameron camilla camille carina carl carla carlo carlos carmen carol carolina caroline
carolyn carrie catalina catherine cathy cecile cecilia celine chantal charles charlie chiara chloe chloé chris christa
christian christiane christina christine christoph christophe christopher cindy claire clara claude claudia claudio
clemens colin colleen connor constance cornelia craig cristian cristina curtis cynthia damien dan daniel daniela
daniele danielle darren dave david dawid deborah debra denise dennis derek diana diane diego dieter dietmar dimitri
dmitri dominik dominique donald donna doris dorothea dorothy doug douglas duncan dustin dwayne edgar edith eduardo
edward edwin eileen elaine elena elias elif elijah elisa elisabeth elise eliza elizabeth elke ella ellen eloise elsa
emil emilia emilie emily emma emmanuel emre enrico enrique eric erica erik erika ernest ernst esteban esther ethan
eugene eva evan evelyn ewa fabian fabio fabrice farah fatima federico felicia felipe felix fernanda fernando filip
filippo fiona florian frances francesca francesco francine francis francisco franck francois franz françois françoise
fred frederic frederick frederik freja frida friedrich fritz frédéric gabriel gabriela gabriele gabrielle gareth gary
gavin gemma geoffrey george georges gerald gerard gerhard gertrud gianluca gilbert giles gilles gina giorgio giovanni
giulia giuseppe gladys glenn gloria gonzalo gordon graham greg gregory greta guido guillaume guillermo gunther gustav
gustavo gábor göran günter hamza hanna hannah hans harald harold harriet harry hassan heather hector hedwig heidi
heike heiko heinrich heinz helen helena helene helga helmut henri henrik henry herbert herman hermann hilda holger
howard hubert hugh hugo håkan hélène ian ibrahim ida ignacio igor ilona ilse imran ines inga inge ingeborg ingo ingrid
inés irene irina isaac isabel isabella isabelle ismael istván ivan ivana iván jacek jack jackie jacob jacqueline
jacques jaime jake jakob jakub james jamie jan jana jane janet janice janina jannik jared jarek jason javier jean
jeanne jeff jeffrey jennifer jenny jens jeremy jerome jerry jerzy jesper jessica jesus jesús jill jim jimmy jiří
joachim joan joanna joanne joao joaquin jochen joel joelle johan johann johanna johannes john johnny jon jonas
jonathan jorge jose josef joseph josephine joshua josé joyce juan juana judith judy jukka julia julian juliana julie
julien juliette julio julius justin justyna jutta ján jános jérôme jørgen jürg jürgen kai kamil karel karen kari karim
karin karina karl karla karolina karsten kasper katalin katarina katarzyna katarína kate katharina katherine kathleen
kathrin kathryn kathy katie katja katrin keith kelly ken kenneth kerstin kevin kim kirsten klara klaus knut konrad
konstantin kristen kristian kristin kristina kurt kyle lara larry lars laura lauren laurence laurent laurie lea leah
leif lena lennart leo leon leona leonard leonardo leonie leslie liam lidia lieselotte liliana lillian lina linda lisa
liv logan lorena lorenzo lotte louis louise luc luca lucas lucia lucie lucy lucía luigi luis luisa luise lukas luke
lukáš luna luz lydia lynn lászló lærke léa madeleine magali magda magdalena maja malgorzata malik manfred manon manuel
manuela mara marc marcel marcela marcin marco marcos marcus marek margaret margarita margot maria mariam marian
mariana marianne marie marina mario marion marius marjorie markus marlene marta martha martin martina martín mary
maría mateo mateusz mathias mathieu mathilde matteo matthew matthias matthieu matti maurice mauricio max maxim maxime
maximilian maya małgorzata megan mehdi mehmet melanie melissa mercedes mette mia michael michaela michal michel
michele michelle miguel mihai mikael mike mikhail mikkel milan milena mireille miriam mohamed mohammad mohammed moira
mona monica monika monique moritz muhammad murat mustafa mónica nadia nadine nancy naomi natalia natalie natasha
nathalie nathan nathaniel neil nelly nicholas nick nicola nicolas nicole nicolás niklas nikola nikolai nils nina noah
noemi nora norbert norma norman nuria ole oleg olena olga oliver olivia olivier omar oscar oskar osman otto owen pablo
pamela paola paolo pascal patricia patrick patrik paul paula paulina pauline paulo pavel pedro peggy pekka penelope
per pete peter petr petra phil philip philipp philippe phillip phyllis pia pierre pierrick pilar piotr priya rachel
rafael raj rajesh ralf ralph ramon raphael raquel raul ravi raymond raúl rebecca regina reinhard renata renate rene
renee rené ricardo riccardo richard rita rob robert roberta roberto robin rodrigo roger roland rolf roman ron ronald
rosa rosalie rosemary roxane ruben rubén rudolf rupert russell ruth ryan sabine sabrina sally salma salvatore sam
samantha samir samuel sandra sandrine sanjay sara sarah sascha satu scott sean sebastian sebastián serge sergei sergio
severine shane shannon sharon sheila shirley sigrid silke silvia simon simona simone sindre sofia sofie sofía sonia
sonja sophia sophie stacy stanislav stanisław stefan stefania stefanie stefano steffen stella stephan stephane
stephanie stephen steve steven stuart stéphane sunita susan susana susanne suzanne svein sven svetlana sylvain sylvia
sylvie sébastien søren tamara tania tanja tanya tara tariq ted teresa thea theo theodore theresa therese thierry
thomas thorsten thérèse tiago tim timo timothy tina tobias todd tom tomas tomasz tommy tomáš toni tony torsten tracy
tristan udo ulrich ulrike ursula ute uwe valentin valentina valeria valerie vanessa vera veronica veronika victor
victoria viktor viktoria vincent vincenzo viola virginia virginie vivian vladimir vojtěch volker waldemar walter
waltraud wanda wayne wendy werner wesley wilhelm willem william wojciech wolfgang xavier yannick yasmin yolanda yusuf
yves yvette yvonne zachary zbigniew zdeněk zoe zofia zoé zsófia zuzana álvaro åse óscar štefan
"""
_AMBIGUOUS = """
adele alexandria angelica ava ben carmen chris constance dan dawid elsa eugene florence florian frances francis
gabriel george glenn gloria gordon grace guillaume harry henri howard hugo ida ines jack james jan jean jesus john-
paul jordan joseph kai kelly ken kim lea leo leon leslie liv logan lotte luc luna luther luz lynn mali malik mara
marina mario martin max maxim maya mercedes mia milan mona nelly nick nora norma norman ole olga omar otto owen paul
paula per peter phil pia pilar raj ravi regina rita rob robin roger roman ron rosa russell ruth sally salvatore sam
scott serge shannon sierra simon sofia stella ted theo thomas tim tom tony valencia valentine vera veronica victor
victoria viola virginia wanda wayne wesley zoe
"""
GIVEN_NAMES: Final = frozenset(_NAMES.split())
AMBIGUOUS: Final = frozenset(_AMBIGUOUS.split())
"""Also a word, a place, a firm or a thing, or a family name of many: by itself it says nothing."""
